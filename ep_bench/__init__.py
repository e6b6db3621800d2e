# SPDX-License-Identifier: Apache-2.0
"""Measures expert-parallel dispatch and combine, on GPUs and on a simulated cluster.

Reading order: ``cli`` picks a device, ``launch`` brings ranks to life, ``runner`` is what every rank does,
``subject`` is one library with one case on one rank, ``operations`` and ``modes`` are what is measured and
how, ``verify`` decides whether results are right, ``report`` shows them.
"""
