# SPDX-License-Identifier: Apache-2.0
"""What MkDocs calls while it builds the site: pages that are made, and links that are moved."""

from __future__ import annotations

from pathlib import Path

import contract_page
import links
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

CONTRACT = "<!-- contract -->"


def root(config: MkDocsConfig) -> Path:
    return Path(config.docs_dir).parent


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages that lie beside docs/, and the sources that pages link to."""
    pages = [f"docs/{file.src_uri}" for file in files.documentation_pages()] + list(links.BESIDE_DOCS)
    for path in links.BESIDE_DOCS:
        text = links.moved((root(config) / path).read_text(), path)
        files.append(File.generated(config, links.on_site(path), content=text))
    for path, text in links.sources(root(config), pages).items():
        place, outside = links.on_site(path), InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, place, content=text, inclusion=outside))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Moves a page's links; where the contract belongs, puts it."""
    if page.file.generated_by:
        return markdown
    include = root(config) / "include"
    if CONTRACT in markdown:
        header, enumerations = include / "nccl_ep.h", include / "nccl_ep/ep_enums.h"
        markdown = markdown.replace(
            CONTRACT, contract_page.page(header.read_text(), enumerations.read_text())
        )
    return links.moved(markdown, f"docs/{page.file.src_uri}")
