import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hep_ray.masking import mask, without_password

SECRETS = st.text(
    st.characters(codec="ascii", categories=["L", "N"], include_characters="-_.!%+@:"), min_size=1
)


@given(
    SECRETS, st.sampled_from(["http", "https", "postgresql", "mysql+pymysql"]), st.sampled_from(["ana", ""])
)
def test_no_password_of_a_uri_is_left(secret, scheme, user):
    secret = f"S3CRET{secret}"
    uri = f"{scheme}://{user}:{secret}@host:5000/base"
    for text in (
        uri,
        f"MLflow at {uri} does not answer",
        shlex.join(["python", "x.py", "--tracking-uri", uri]),
    ):
        assert "S3CRET" not in mask(text)
    assert without_password(uri) == f"{scheme}://{user}@host:5000/base"


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////data/a:b@c/mlflow.db",
        "http://127.0.0.1:5000",
        "https://ana@host/x?a=1&b=2",
        "postgresql:///x",
    ],
)
def test_what_holds_no_password_stays_as_it_is(uri):
    assert mask(uri) == without_password(uri) == uri


def test_a_password_in_the_query():
    uri = "postgresql://host/x?user=ana&password=s3cret&sslmode=require"
    assert mask(uri) == "postgresql://host/x?user=ana&password=***&sslmode=require"
    assert without_password(uri) == "postgresql://host/x?user=ana&sslmode=require"
