# SPDX-License-Identifier: Apache-2.0
"""What whole-system tests and the demo share: programs, processes, images and real guests."""
