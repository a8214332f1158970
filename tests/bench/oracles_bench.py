"""Double loops that say what the metrics mean, written from the definitions alone."""


def rank_of_best(scores_of_query, relevant):
    """Place of the best relevant item when every tie is lost."""
    best = max(s for s, r in zip(scores_of_query, relevant, strict=True) if r)
    place = 1
    for score, is_relevant in zip(scores_of_query, relevant, strict=True):
        if not is_relevant and score >= best:
            place += 1
    return place


def first_items(scores_of_query, relevant, k):
    """The first k positions: score down, non-relevant first, then lower position."""
    keys = [
        (-score, bool(is_relevant), position)
        for position, (score, is_relevant) in enumerate(zip(scores_of_query, relevant, strict=True))
    ]
    places = [position for _, _, position in sorted(keys)][:k]
    return places + [-1] * (k - len(places))


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
