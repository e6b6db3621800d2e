# SPDX-License-Identifier: Apache-2.0
"""Pairs a frozen dataclass with its C struct, once, and checks that neither has a field the other lacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from operator import index
from typing import Any, ClassVar, TypeVar

from nccl_ep._ffi import constants, ffi

_BOOKKEEPING = ("size", "magic", "version")
_Class = TypeVar("_Class", bound="type[CStruct]")


class CStruct:
    """Base of the dataclasses that mirror a C struct. An instance builds its C struct when it is made.

    Attributes:
        c: the C struct (cdata pointer), valid as long as this object.
    """

    c: Any
    _c_type: ClassVar[str]
    _c_names: ClassVar[dict[str, str]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "c", self._build())

    def _build(self) -> Any:
        c = ffi.new(f"{self._c_type}*")
        c_fields = dict(ffi.typeof(self._c_type).fields)
        bookkeeping = (ffi.sizeof(self._c_type), constants["NCCL_EP_MAGIC"], constants["NCCL_EP_API_VERSION"])
        for name, value in zip(_BOOKKEEPING, bookkeeping, strict=True):
            if name in c_fields:
                setattr(c, name, value)
        for name, c_name in self._c_names.items():
            try:
                setattr(c, c_name, _to_c(getattr(self, name), c_fields[c_name].type))
            except (OverflowError, TypeError) as error:
                c_type = c_fields[c_name].type.cname
                message = f"{type(self).__name__}.{name}: {getattr(self, name)!r} is no {c_type}"
                raise type(error)(message) from None
        return c

    def __reduce__(self) -> tuple[type[CStruct], tuple[Any, ...]]:
        return type(self), tuple(getattr(self, name) for name in self._c_names)


def paired_with(c_type: str, **renamed: str) -> Callable[[_Class], _Class]:
    """Class decorator: this dataclass is that C struct, up to renamed fields (Python name = C name)."""

    def pair(python: _Class) -> _Class:
        own_names = [field.name for field in fields(python)]  # type: ignore[arg-type]
        names = {name: renamed.get(name, name) for name in own_names}
        in_c = [name for name, _ in ffi.typeof(c_type).fields]
        ours = {name for name in in_c if name not in _BOOKKEEPING and not name.startswith("padding")}
        if ours != set(names.values()):
            differences = sorted(ours ^ set(names.values()))
            raise ImportError(f"nccl_ep.{python.__name__} and {c_type} of nccl_ep.h differ in {differences}")
        python._c_type, python._c_names = c_type, names
        return python

    return pair


def _to_c(value: Any, c_type: Any) -> Any:
    if c_type.kind == "struct":
        if not isinstance(value, CStruct):
            raise TypeError
        return value.c[0]
    if c_type.kind not in ("pointer", "function"):
        return int(value) if isinstance(value, float) and value.is_integer() else index(value)
    if value is None:
        return ffi.NULL
    return value.c if hasattr(value, "c") else ffi.cast(c_type, value)
