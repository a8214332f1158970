"""More double loops: places of relevant items under the tie rule, and what is made of them."""

from tests.bench.oracles_bench import first_items


def places(scores_of_query, relevant):
    """Places, from 1, of the relevant items when every tie is lost."""
    whole = first_items(scores_of_query, relevant, len(scores_of_query))
    return [place + 1 for place, position in enumerate(whole) if relevant[position]]


def true_recall(scores_of_query, relevant, k):
    found = [place for place in places(scores_of_query, relevant) if place <= k]
    return len(found) / sum(relevant)


def precision_at(scores_of_query, relevant, k):
    return sum(place <= k for place in places(scores_of_query, relevant)) / k


def truncated_precision(scores_of_query, relevant):
    n = sum(relevant)
    total = 0.0
    for count, place in enumerate(places(scores_of_query, relevant), start=1):
        if place <= n:
            total += count / place
    return total / n
