# SPDX-License-Identifier: Apache-2.0
"""What ranks run on. ``face`` is what the rest of ep_bench knows; simulated and real GPUs implement it."""
