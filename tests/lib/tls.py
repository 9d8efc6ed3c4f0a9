# SPDX-License-Identifier: Apache-2.0
"""Keys and certificates for a test."""

import subprocess

from .paths import system_program


def make_certificates(directory, authority="ca", names=("switch", "controller")):
    """An authority, and a key with a certificate of it for each name: NAME-key.pem, NAME.pem."""
    def openssl(*words):
        subprocess.run([system_program("openssl", "openssl"), *words], check=True, capture_output=True, cwd=directory)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", f"{authority}-key.pem", "-out", f"{authority}.pem", "-days", "2", "-subj", f"/CN={authority}")
    for name in names:
        openssl("req", *key, "-keyout", f"{name}-key.pem", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}-key.pem", "-CAcreateserial", "-days", "2",
                "-out", f"{name}.pem")
