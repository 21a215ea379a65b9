"""Makes the certificates in this folder: python3 make.py, with the package cryptography.

They are for tests on loopback alone. Their keys are public, so nobody may trust them.

    localhost.pem, localhost.key   P-256, signed by itself, for a hundred years
    rsa.pem, rsa.key               the same with RSA, 2048 bits
    expired.pem                    of localhost.key, for two days in 2020
"""

from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

FOLDER = Path(__file__).parent


def write_key(name, key):
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (FOLDER / name).write_bytes(key.private_bytes(*form))


def write_certificate(name, key, start, days):
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (FOLDER / name).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


start = datetime(2026, 1, 1, tzinfo=timezone.utc)
localhost = ec.generate_private_key(ec.SECP256R1())
write_key("localhost.key", localhost)
write_certificate("localhost.pem", localhost, start, 36500)
write_certificate("expired.pem", localhost, datetime(2020, 1, 1, tzinfo=timezone.utc), 2)
other = rsa.generate_private_key(65537, 2048)
write_key("rsa.key", other)
write_certificate("rsa.pem", other, start, 36500)
