from __future__ import annotations

import pytest

from circuitbreaker_django.dashboard.keys import Key


@pytest.mark.parametrize(
    ("registry", "name", "pk"),
    [
        ("default", "payments", "default:payments"),
        ("eu:west/1", "mail:smtp", "eu%3Awest%2F1:mail:smtp"),
        ("50%", "a b", "50%25:a b"),
        ("ä", "%3A", "%C3%A4:%3A"),
    ],
)
def test_a_key_is_found_by_its_pk_again(registry, name, pk):
    assert Key(registry, name).pk == pk
    assert Key.of(pk) == Key(registry, name)


@pytest.mark.parametrize("pk", ["", "payments", ":payments", "default:", ":"])
def test_what_is_no_pk_is_refused(pk):
    with pytest.raises(ValueError, match="is no registry:name"):
        Key.of(pk)


def test_an_id_is_short_plain_and_its_own():
    ids = {Key(registry, "'><ö").id for registry in ("a", "b")}
    assert len(ids) == 2
    assert all(len(id) == 12 and id.isalnum() for id in ids)
