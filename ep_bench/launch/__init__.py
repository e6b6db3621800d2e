# SPDX-License-Identifier: Apache-2.0
"""How ranks come to life: found in the environment of a launcher, or started here as a launcher would."""
