"""Makes keys.json and tokens.json anew: pip install jwcrypto==1.5.8"""
import json
from jwcrypto import jwk, jwt

KINDS = {
    "RS256": dict(kty="RSA", size=2048),
    "PS256": dict(kty="RSA", size=2048),
    "RS512": dict(kty="RSA", size=2048),
    "ES256": dict(kty="EC", crv="P-256"),
    "ES384": dict(kty="EC", crv="P-384"),
    "EdDSA": dict(kty="OKP", crv="Ed25519"),
    "HS256": dict(kty="oct", size=256),
    "HS512": dict(kty="oct", size=512),
}
CLAIMS = {"iss": "https://issuer.example", "aud": ["app", "other"], "sub": "ann", "exp": 4_000_000_000, "roles": ["a", "b"]}

keys, tokens = [], {}
for alg, kind in KINDS.items():
    key = jwk.JWK.generate(kid=alg, use="sig", alg=alg, **kind)
    token = jwt.JWT(header={"alg": alg, "kid": alg, "typ": "JWT"}, claims=CLAIMS)
    token.make_signed_token(key)
    tokens[alg] = token.serialize()
    keys.append(json.loads(key.export(private_key=alg.startswith("HS"))))
encryption = jwk.JWK.generate(kty="RSA", size=2048, kid="enc", use="enc")
keys.append(json.loads(encryption.export(private_key=False)))
json.dump({"keys": keys}, open("keys.json", "w"), indent=1)
json.dump(tokens, open("tokens.json", "w"), indent=1)
