# SPDX-License-Identifier: Apache-2.0
"""How results are shown: on the screen, in files, in pictures."""
