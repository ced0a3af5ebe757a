"""Beliefs as content: what was written returns bit for bit, is told apart by kind, and is forgotten in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.posteriors import Estimate, Evidence, beta_of
from service.learning.beliefs import Contents, decode, encode, encode_estimates, version
from service.learning.knowledge import Knowledge

numbers = st.floats(-1e9, 1e9, allow_nan=False)


@given(st.dictionaries(st.text(), st.builds(Estimate, numbers, numbers)))
def test_estimates_return_bit_for_bit(estimates):
    content = encode_estimates(estimates)
    beliefs = decode(content)
    assert dict(beliefs.estimates) == estimates
    assert beliefs.evidence == {}
    assert encode_estimates(beliefs.estimates) == content
    assert beliefs.version == version(content)


def test_the_order_of_arms_is_no_content():
    one, two = Estimate(0.5, 0.1), Estimate(0.6, 0.2)
    assert encode_estimates({"a": one, "b": two}) == encode_estimates({"b": two, "a": one})


def test_evidence_and_estimates_are_told_apart():
    assert decode(encode({"a": Evidence(0.5, 0.1)})).evidence == {"a": Evidence(0.5, 0.1)}
    assert decode(encode_estimates({"a": Estimate(0.5, 0.1)})).estimates == {"a": Estimate(0.5, 0.1)}
    assert decode(encode({})).version != decode(encode_estimates({})).version


def test_the_oldest_of_4096_contents_is_forgotten_and_use_keeps_one_young():
    contents = Contents()
    versions = [contents.keep(encode({"a": Evidence(float(n + 1))})).version for n in range(4_096)]
    assert all(contents.get(one) for one in versions)
    contents.keep(encode({"a": Evidence(1.0)}))  # the oldest, given out again
    contents.keep(encode({"a": Evidence(9_999.0)}))
    assert contents.get(versions[0]) == encode({"a": Evidence(1.0)})
    assert contents.get(versions[1]) is None
    assert contents.get(versions[2]) is not None


def test_the_content_of_a_fit_in_use_is_there_however_many_came_after_it():
    knowledge = Knowledge()
    cell, content = ("Open QA", "simple"), encode_estimates({"a": Estimate(0.5, 0.1)})
    knowledge.take_fit("", "pooled", {cell: content})
    kept = knowledge.fit("", "pooled")[cell].version
    for number in range(5_000):
        knowledge.take_fit("", "other", {cell: encode_estimates({"a": Estimate(number, 0.1)})})
    assert knowledge.content(kept) == content
    knowledge.take_fit("", "pooled", {cell: encode_estimates({})})
    with pytest.raises(KeyError):
        knowledge.content(kept)


@given(st.lists(st.builds(Estimate, st.floats(-1, 2), st.floats(0, 2)), min_size=1, max_size=3))
def test_the_beta_that_people_read_has_the_estimates_mean_and_variance(estimates):
    beta = beta_of(estimates)
    mean = sum(one.mean for one in estimates) / len(estimates)
    variance = sum(one.sd**2 for one in estimates) / len(estimates)
    assert beta.alpha > 0 < beta.beta
    assert beta.mean == pytest.approx(min(max(mean, 0.001), 0.999))
    if 0.001 < mean < 0.999 and 1e-9 < variance < mean * (1 - mean) / 1.1:
        assert beta.sd == pytest.approx(variance**0.5, rel=1e-6)
