from shop.problems import KINDS, Problem, problem_of, problem_of_status


def test_a_problem_has_the_members_of_its_standard():
    """RFC 9457: type, title, status, detail, instance, and members of our own beside them."""
    body = Problem("price-changed", "Dearer now.", prices=[1]).body("/api/v1/checkout")
    assert body == {
        "type": "/api/v1/problems/price-changed",
        "title": "A price has changed",
        "status": 409,
        "detail": "Dearer now.",
        "instance": "/api/v1/checkout",
        "prices": [1],
    }


def test_a_problem_survives_the_way_between_services():
    for slug in KINDS:
        again = problem_of(Problem(slug, "Why.", more="this").body())
        assert (again.kind.slug, again.detail, again.extra) == (slug, "Why.", {"more": "this"})


def test_plain_statuses_have_their_kind():
    assert problem_of_status(404, "").kind.slug == "not-found"
    assert problem_of_status(418, "").kind.slug == "bad-request"
    assert problem_of_status(502, "").kind.slug == "internal"
