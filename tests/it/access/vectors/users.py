"""Makes users.htpasswd: each user's password is `pass:` and their name."""

import subprocess

import argon2
import bcrypt


def crypt(kind, password, *more):
    made = subprocess.run(["openssl", "passwd", kind, *more, password], capture_output=True, check=True, text=True)
    return made.stdout.strip()


def of(name, make):
    return f"{name}:{make(f'pass:{name}')}"


def with_bcrypt(prefix):
    return lambda password: bcrypt.hashpw(password.encode(), bcrypt.gensalt(4, b"2b")).decode().replace("2b", prefix, 1)


users = [
    "# Users of the tests.",
    "",
    of("bcrypt-y", with_bcrypt("2y")),
    of("bcrypt-b", with_bcrypt("2b")) + ":what stands here is a remark",
    of("argon2id", argon2.PasswordHasher(time_cost=2, memory_cost=8192, parallelism=2).hash),
    of("sha256", lambda password: crypt("-5", password)),
    of("sha512", lambda password: crypt("-6", password)),
    # openssl takes the rounds with the salt.
    of("rounds", lambda password: crypt("-6", password, "-salt", "rounds=1234$saltsaltsalt")),
    of("jürgen", lambda password: crypt("-5", password)),
]
with open("users.htpasswd", "w") as file:
    file.write("\n".join(users) + "\n")
