"""The lines that the tests must see broken, by what they guard.

A line that moves or changes is brought up to date here: a text that does not stand in its file once is
an error. Of each mutant: what it guards, file, text, what it becomes, and the quickest tests that see it.
"""

from __future__ import annotations

from tests.mutants.run import Mutant

# ruff: noqa: E501
# fmt: off
MUTANTS: dict[str, tuple[Mutant, ...]] = {
    "search": (
        Mutant(
            'The printed address works once.', 'bench/report/search.py',
            'self.key = "" if fits else self.key', 'self.key = self.key',
            ('tests/bench/test_serving.py::test_the_key_is_changed_into_a_cookie_once',)),
        Mutant(
            'A name that was pointed at this machine is refused.', 'bench/report/search.py',
            'if self.headers.get_all("Host") not in (', 'if None in (',
            ('tests/bench/test_serving.py::test_a_name_that_was_pointed_here_is_refused',)),
        Mutant(
            'What was chosen for the default encoders is not taken for others.', 'bench/search.py',
            '**(SETTINGS if self.config.has_defaults else {})', '**SETTINGS',
            ('tests/bench/test_search.py::test_settings_that_were_chosen_for_the_default_encoders_are_not_taken_for_others',)),
        Mutant(
            'Who may not be called so unasked is on no picture.', 'bench/report/search.py',
            'np.flatnonzero(printed)\n    deep', 'np.arange(len(printed))\n    deep',
            ('tests/bench/test_search.py::test_the_lists_of_a_page_are_exact_and_its_shares_counted',)),
        Mutant(
            'No interval of a board passes what a score can be.', 'bench/others.py',
            'min(high, bounds[1])', 'high',
            ('tests/bench/test_others.py::test_items_of_several_tasks_give_a_board_of_tasks_and_one_of_each',)),
    ),
    "confidence": (
        Mutant(
            'A calibration error is without what chance adds to it.', 'bench/metrics/confidence.py',
            '    square = total - noise\n', '    square = total\n',
            ('tests/bench/test_confidence.py::test_the_debiased_error_is_that_of_kumar_where_confidences_are_binned',)),
        Mutant(
            'Equal confidences share a bin.', 'bench/metrics/confidence.py',
            'np.searchsorted(edges, p, side="right")', 'np.argsort(np.argsort(p)) * n_bins // n',
            ('tests/bench/test_confidence.py::test_equal_confidences_share_a_bin_and_the_order_of_answers_changes_nothing',)),
        Mutant(
            'A half of the pictures is scored by the other half.', 'fitters/scorers.py',
            'queries[np.flatnonzero(own == 0.0)]', 'queries[np.flatnonzero(own == 1.0)]',
            ('tests/fitters/test_scorers.py::test_the_hub_correction_is_its_formula',)),
    ),
    "statistics": (
        Mutant(
            'A plan is not confirmatory after its code changed.', 'bench/confirmatory.py',
            'stored["code"] != _code(),', 'False,',
            ('tests/bench/test_confirmatory.py::test_what_changed_is_not_confirmatory',)),
        Mutant(
            'Runs that were scored before the plan was stored are counted.', 'bench/confirmatory.py',
            'len(finished(root).intersection(ids))', '0',
            ('tests/bench/test_confirmatory.py::test_what_changed_is_not_confirmatory',)),
        Mutant(
            'Effects of sets have an error of at least their weights.', 'bench/confirmatory.py',
            'max(1.0, spread / (n - 1))', '(spread / (n - 1))',
            ('tests/bench/test_random_effects.py::test_the_summary_is_that_of_statsmodels',)),
        Mutant(
            'Tasks of a group are not counted beside the group.', 'bench/others.py',
            'if task not in inside}', 'if task}',
            ('tests/bench/test_others.py::test_a_group_stands_for_its_tasks_and_a_loss_is_no_score',)),
        Mutant(
            'What a head knows is not suggested again.', 'fitters/solvers.py',
            'np.eye(p) + rows.T @ rows', 'np.eye(p)',
            ('tests/fitters/test_suggest.py::test_each_step_is_the_best_of_all_by_brute_force',)),
        Mutant(
            'Draws that take pairs of one pool are not independent.', 'bench/statistics.py',
            '        * (1.0 + n_draws * overlap / (1.0 - overlap)),', '        * 1.0,',
            ('tests/bench/test_statistics.py::test_the_factor_for_overlapping_subsets',)),
        Mutant(
            'An interval is about new queries too.', 'bench/statistics.py',
            '        of_clusters=_variance(residual.sum(axis=0), of_cluster, n),',
            '        of_clusters=0.0,',
            ('tests/bench/test_statistics.py::test_crossed_draws_are_an_analysis_of_variance',)),
        Mutant(
            'An interval is about new draws too.', 'bench/statistics.py',
            '        of_draws=_variance(residual.sum(axis=1), of_draw, n)', '        of_draws=0.0',
            ('tests/bench/test_statistics.py::test_crossed_draws_are_an_analysis_of_variance',)),
        Mutant(
            'The variance of few clusters is not too small: CR2.', 'bench/statistics.py',
            'residual[kept] ** 2 / (1.0 - shares[kept])', 'residual[kept] ** 2',
            ('tests/bench/test_statistics.py::test_crossed_draws_are_an_analysis_of_variance',)),
        Mutant(
            'The variance of control draws is part of the variance of a difference.',
            'bench/statistics.py',
            'return self.of_draws + self.of_clusters + self.of_controls',
            'return self.of_draws + self.of_clusters',
            ('tests/bench/test_statistics.py::test_the_variance_of_control_draws_is_part_of_every_number',),
            quick=True),
        Mutant(
            'The rank of a head counts the head itself among the draws.', 'bench/statistics.py',
            'by_rank = (1 + reached) / (m + 1), (1 + undercut) / (m + 1)',
            'by_rank = max(1, reached) / m, max(1, undercut) / m',
            ('tests/bench/test_statistics.py::test_a_head_among_its_controls_by_hand',)),
        Mutant(
            'A head is one more draw, not the mean of many.', 'bench/statistics.py',
            'math.sqrt(1 + 1 / m)), m - 1', 'math.sqrt(1 / m)), m - 1',
            ('tests/bench/test_statistics.py::test_beyond_all_controls_p_is_of_a_new_draw',)),
        Mutant(
            "The head's own deviation is in all paired differences.", 'bench/statistics.py',
            'mean / (sd * math.sqrt(1.0 + 1.0 / m)), m - 1)',
            'mean / (sd * math.sqrt(1.0 / m)), m - 1)',
            ('tests/bench/test_statistics.py::test_paired_controls_count_the_heads_own_deviation',)
        ),
        Mutant(
            'Of three scales the least sure one counts.', 'bench/statistics.py',
            'by_t = max(above for above, _ in tails), max(below for _, below in tails)',
            'by_t = min(above for above, _ in tails), min(below for _, below in tails)',
            ('tests/bench/test_statistics.py::test_counts_near_chance_are_not_taken_as_normal',)),
        Mutant(
            'Holm multiplies the smallest p by the size of the family.', 'bench/statistics.py',
            'factor(np.arange(len(p), 0, -1))', 'factor(np.arange(1, len(p) + 1))',
            ('tests/bench/test_statistics.py::test_holm_by_hand',)),
        Mutant(
            'No corrected p is below one before it.', 'bench/statistics.py',
            'steps = np.maximum.accumulate(p[order] * factor(np.arange(len(p), 0, -1)))',
            'steps = p[order] * factor(np.arange(len(p), 0, -1))',
            ('tests/bench/test_statistics.py::test_holm_by_hand',), quick=True),
        Mutant(
            'A leader is chosen among all pairs of a board.', 'bench/statistics.py',
            'lambda left: (left + 1) * left / 2',
            'lambda left: left * 0 + 1',
            ('tests/bench/test_statistics.py::test_what_make_validate_statistics_checks_holds_at_small_size',)
        ),
        Mutant(
            'Unequal clusters have fewer degrees of freedom.', 'bench/statistics.py',
            'return float(1.0 / (np.sum(h**2) + np.sum(lever) ** 2 - np.sum(lever**2)))',
            'return float(len(h) - 1)',
            ('tests/bench/test_statistics.py::test_degrees_of_freedom_are_those_of_the_quadratic_form',)
        ),
        Mutant(
            "Where hits are rare, large clusters without one do not narrow a share's interval.",
            'bench/statistics.py', 'max(found.of_clusters, _agreement_variance(sums))',
            'found.of_clusters',
            ('tests/bench/test_statistics.py::test_few_hits_beside_large_clusters_have_the_variance_of_agreeing_rows',)
        ),
        Mutant(
            'Clusters that agree are no proof.', 'bench/statistics.py',
            'return float(2.0 ** (1 - self.n_clusters))', 'return 0.0',
            ('tests/bench/test_statistics.py::test_where_nothing_varies_p_is_that_of_the_signs',)
        ),
        Mutant(
            'One cluster leaves the variance unknown.', 'bench/statistics.py',
            '        if self.n_clusters < 2:', '        if self.n_clusters < 1:',
            ('tests/bench/test_statistics.py::test_one_cluster_says_nothing',)),
        Mutant(
            'A paired difference is over the same queries.', 'bench/statistics.py',
            ' or not np.array_equal(self.count, other.count)', '',
            ('tests/bench/test_statistics.py::test_sides_with_other_queries_are_refused',)),
        Mutant(
            "A sample's standard deviation has n - 1.", 'bench/cells.py', 'np.std(values, ddof=1)',
            'np.std(values)',
            ('tests/bench/test_comparisons.py::test_both_sides_have_their_spread_and_the_gain_is_relative_too',)
        ),
        Mutant(
            'Control draws that are averaged have a variance.', 'bench/comparisons.py',
            '(float(np.var(draws, ddof=1)) / len(draws), len(draws) - 1.0)',
            '(0.0, len(draws) - 1.0)',
            ('tests/bench/test_comparisons.py::test_control_draws_on_every_split_are_ranked_by_their_means_over_splits',)
        ),
        Mutant(
            'A control draw counts only where it stands beside every seed.',
            'bench/comparisons.py',
            'kept = [c for c, own in of_control.items() if own.issuperset(seeds)]',
            'kept = list(of_control)',
            ('tests/bench/test_comparisons.py::test_an_unfinished_control_draw_is_left_out_and_never_paired',)
        ),
        Mutant(
            'Two cells compare on the same queries only.', 'bench/comparisons.py',
            'same = all(self.a.of_seed[s] == self.b.of_seed[s] for s in common)', 'same = True',
            ('tests/bench/test_comparisons.py::test_sides_that_share_no_query_are_left_out',)),
        Mutant(
            'Primary comparisons are corrected over their family.', 'bench/comparisons.py',
            'corrected = holm(np.array([p for _, p in members]))',
            'corrected = np.array([p for _, p in members])',
            ('tests/bench/test_comparisons.py::test_the_primary_family_is_named_beforehand_and_corrected_alone',)
        ),
        Mutant(
            'A p of few control draws makes nothing bold.', 'bench/comparisons.py',
            'test.rank is not None and test.n_controls < ENOUGH_CONTROLS',
            'test.rank is not None and test.n_controls < 1',
            ('tests/bench/test_comparisons.py::test_fewer_than_nineteen_control_draws_make_nothing_bold',)
        ),
        Mutant(
            'Few draws make nothing bold.', 'bench/comparisons.py',
            'len(common.intersection(cell.seeds)) < ENOUGH_DRAWS',
            'len(common.intersection(cell.seeds)) < 0',
            ('tests/bench/test_comparisons.py::test_bold_needs_draws_and_a_pool',)),
        Mutant(
            'Head and real pairs must beat the better of the two alone.', 'bench/comparisons.py',
            'yield max(parts, key=lambda part: part.sides[1].mean)',
            'yield min(parts, key=lambda part: part.sides[1].mean)',
            ('tests/bench/test_comparisons.py::test_differences_are_those_of_the_queries',)),
        Mutant(
            "A permutation's p counts the order as it is.", 'bench/metrics/geometry.py',
            'float(1 + np.count_nonzero(null >= value - _EQUAL)) / (len(null) + 1)',
            'float(np.count_nonzero(null >= value - _EQUAL)) / len(null)',
            ('tests/bench/test_calibrated.py::test_values_and_draws_are_those_of_a_loop',)),
        Mutant(
            'A gallery of n has n - 1 others.', 'bench/metrics/geometry.py',
            'null, k / (size - 1), 0.05)', 'null, k / size, 0.05)',
            ('tests/bench/test_calibrated.py::test_mutual_knn_of_stored_views_is_that_of_arrays_and_falls_with_the_gallery',)),
        Mutant(
            'An item is no neighbour of itself.', 'bench/metrics/geometry.py',
            'np.argsort(near == own[:, None], axis=1, kind="stable")[:, :k]',
            'np.argsort(near != own[:, None], axis=1, kind="stable")[:, :k]',
            ('tests/bench/test_calibrated.py::test_mutual_knn_of_stored_views_is_that_of_arrays_and_falls_with_the_gallery',)),
        Mutant(
            "A permutation's p counts the order as it is.", 'bench/metrics/geometry.py',
            'return distance, chance, (1 + reached) / (1 + n_permutations)',
            'return distance, chance, reached / n_permutations',
            ('tests/bench/test_diagnostic_metrics.py::test_gaps_of_one_cloud_and_of_two',)),
    ),
    "ties": (
        Mutant(
            'A rank counts every item that scores as high.', 'bench/metrics/ranks.py',
            'found = np.greater_equal(block, own[items][:, None], out=reached[: len(rows)])',
            'found = np.greater(block, own[items][:, None], out=reached[: len(rows)])',
            ('tests/bench/test_metrics_ranks.py::test_hand_worked_tables',)),
        Mutant(
            'The same, where a query has many relevant items.', 'bench/metrics/ranks.py',
            'np.searchsorted(np.sort(row), own[mine], side="left")',
            'np.searchsorted(np.sort(row), own[mine], side="right")',
            ('tests/bench/test_metrics_ranks.py::test_equals_double_loops_and_sklearn_on_tied_scores',)
        ),
        Mutant(
            'Equal items score alike, whatever a BLAS rounds.', 'bench/metrics/ranks.py',
            'return function(scores if equal is None else equal.tie(scores), start)',
            'return function(scores, start)',
            ('tests/bench/test_metrics_ranks.py::test_copies_of_the_relevant_item_stand_before_it',)),
        Mutant(
            'Of items that tie, the wrong ones are shown first.', 'bench/metrics/ranks.py',
            'order = np.lexsort((positions, relevant, -scores[rows, positions], rows))',
            'order = np.lexsort((positions, ~relevant, -scores[rows, positions], rows))',
            ('tests/bench/test_metrics_ranks.py::test_hand_worked_tables',), quick=True),
        Mutant(
            'The same, where a choice goes by ranks.', 'fitters/select/ranking.py',
            'above = (scores >= best).sum(axis=1)', 'above = (scores > best).sum(axis=1) + right',
            ('tests/fitters/test_select.py::test_reciprocal_ranks_by_hand',)),
        Mutant(
            'Of equal points of a grid the larger penalty is taken.', 'fitters/select/grid.py',
            'key=lambda index: [-index[along] if least else index[along] for along, least in order],',
            'key=lambda index: [-index[along] for along, least in order],',
            ('tests/fitters/test_grid.py::test_equal_scores_go_to_the_larger_penalty_then_weight',)
        ),
    ),
    "metrics": (
        Mutant(
            'Recall divides by the relevant items of a query.', 'bench/metrics/summary.py',
            '(of.n_relevant if of_relevant else k)', 'k',
            ('tests/bench/test_metrics_ranks.py::test_equals_double_loops_and_sklearn_on_tied_scores',)),
        Mutant(
            'What chance gives knows how many items are relevant.', 'bench/metrics/summary.py',
            'spread = (relevant - 1) / max(1, gallery - 1)', 'spread = relevant / gallery',
            ('tests/bench/test_metrics_chance.py::test_equals_the_mean_over_every_order',)),
        Mutant(
            'Balanced accuracy is over classes that have images.', 'bench/metrics/summary.py',
            '"balanced-accuracy": float(recall[having].mean())',
            '"balanced-accuracy": float(recall.mean())',
            ('tests/bench/test_zero_shot.py::test_class_metrics_equal_sklearn',)),
    ),
    "splits": (
        Mutant(
            'A class of several images has one to score, however large a share is trained on.',
            'bench/protocol.py',
            'wanted = np.where(counts > 1, np.minimum(wanted, counts - 1), wanted)',
            'wanted = np.minimum(wanted, counts)',
            ('tests/bench/test_few_shot_task.py::test_both_sides_of_an_in_class_split_know_every_class_of_two_images',)),
        Mutant(
            'No class is on both sides of a held-out split.', 'bench/protocol.py',
            'return Split(train=train, test=np.flatnonzero(~in_train[codes]))',
            'return Split(train=train, test=np.arange(len(codes)))',
            ('tests/bench/test_protocol.py::test_no_class_is_on_both_sides_and_every_image_is_on_one',)
        ),
        Mutant(
            'Subsets grow in an order that the seed draws.', 'bench/protocol.py',
            'train = train[stream("subset", seed).permutation(len(train))]',
            'train = np.sort(train)',
            ('tests/bench/test_protocol.py::test_subsets_of_a_seed_are_nested_and_random',)),
        Mutant(
            'Split and control do not share random numbers.', 'bench/protocol.py',
            'np.random.default_rng([seed, _STREAMS[purpose]])',
            'np.random.default_rng([seed, 1])',
            ('tests/bench/test_protocol.py::test_the_streams_of_a_seed_are_different',)),
        Mutant(
            'Images of the split test are not trained on.', 'bench/protocol.py',
            'Split(_order(np.isin(splits, list(train)), seed), test)',
            'Split(_order(np.ones(len(splits), dtype=bool), seed), test)',
            ('tests/bench/test_few_shot_task.py::test_the_manifests_split_is_taken_as_it_is',)),
        Mutant(
            'Validation images are none of the shots.', 'bench/protocol.py',
            'return order[(place >= after) & (place < after + n)]',
            'return order[place < after + n]',
            ('tests/bench/test_few_shot_task.py::test_shots_are_nested_and_validation_is_none_of_them',)
        ),
        Mutant(
            'The same, in the task that learns from shots.', 'bench/tasks/few_shot.py',
            'images.classes, held, after=options.shots)', 'images.classes, held)',
            ('tests/bench/test_few_shot_task.py::test_what_the_task_hands_a_learner_holds_no_image_twice',)
        ),
        Mutant(
            'Unseen classes are those that the head lacks.', 'bench/tasks/ranked.py',
            'kept = seen if options.classes == "seen" else ~seen',
            'kept = ~seen if options.classes == "seen" else seen',
            ('tests/bench/test_zero_shot.py::test_seen_classes_leave_the_images_and_the_gallery',)),
    ),
    "bridges": (
        Mutant(
            'An item is no witness of its own profile.', 'bench/spaces.py',
            '    count[anchors] -= 1', '    pass',
            ('tests/bench/test_spaces.py::test_a_profile_is_a_correlation_without_the_item_itself',)),
        Mutant(
            'A query is not its own neighbour.', 'bench/metrics/geometry.py',
            '        scores[own - start, own] = -np.inf', '        pass',
            ('tests/bench/test_bridge.py::test_what_is_kept_is_counted_query_by_query',)),
        Mutant(
            'Both halves of a draw are of one pool.', 'bench/bridge.py',
            'overlap=part["pairs"][0] / n', 'overlap=0.0',
            ('tests/bench/test_bridge.py::test_the_interval_is_of_draws_and_items',)),
        Mutant(
            'The gate is held by the lower end of the interval.', 'bench/bridge.py',
            'self.own.interval()[0] >= self.gate', 'self.own.mean >= self.gate',
            ('tests/bench/test_bridge.py::test_the_gate_is_the_lower_end',)),
        Mutant(
            'Noise is no rotation.', 'bench/spaces.py',
            '_SPREAD = 0.95', '_SPREAD = 0.0',
            ('tests/bench/test_spaces.py::test_noise_is_no_rotation_where_rows_lie_in_few_directions',)),
        Mutant(
            'Genera are held out whole.', 'bench/birds.py',
            'split.split(groups, groups=groups)', 'split.split(groups, groups=species.names)',
            ('tests/bench/test_birds.py::test_names_of_species_and_genera_never_seen_are_found_by_true_pairs_alone',)),
        Mutant(
            'A control within a genus gives every row another name.', 'fitters/prototypes.py',
            '        if 2 * sizes.max() <= len(members):', '        if False:',
            ('tests/bench/test_birds.py::test_names_are_replaced_within_the_genus',)),
        Mutant(
            'An adapter that maps otherwise than it did is refused.', 'fitters/adapter.py',
            '            if not off <= _CLOSE', '            if False and not off <= _CLOSE',
            ('tests/fitters/test_space_maps.py::test_what_was_changed_is_refused',)),
        Mutant(
            'A tight group does not hide itself.', 'bench/spaces.py',
            '    starts = [np.ones(n, bool), *map(_larger, turned[:, -_STARTS:].T)]',
            '    starts = [np.ones(n, bool)]',
            ('tests/bench/test_passport.py::test_a_tight_group_does_not_hide_itself',)),
        Mutant(
            'What is foreign is in the last columns, too.', 'bench/spaces.py',
            '_STARTS, _PER_COLUMN = 3, 2', '_STARTS, _PER_COLUMN = 3, 6',
            ('tests/bench/test_passport.py::test_rows_of_another_encoder_are_found',)),
        Mutant(
            'A heavy tail leaves no gap.', 'bench/spaces.py',
            ' and between <= beyond.sum()', '',
            ('tests/bench/test_passport.py::test_nothing_is_found_in_unmixed_rows',)),
        Mutant(
            'A value that is nearly 0 is on no grid.', 'bench/spaces.py',
            ' & ((nearest > 0) | (sizes == 0))', '',
            ('tests/bench/test_passport.py::test_footprints_by_hand',)),
        Mutant(
            'A derived set is in a space of its own.', 'bench/derive.py',
            '"from": info.commit.space_id, **way.facts}', '"from": info.commit.space_id}',
            ('tests/bench/test_derive.py::test_a_derived_set_is_in_a_space_of_its_own',)),
        Mutant(
            'A set is meant before those derived from it.', 'featstore/store/store.py',
            ' if not self._info(one).derived]', ']',
            ('tests/bench/test_derive.py::test_a_derived_set_is_in_a_space_of_its_own',)),
        Mutant(
            'Items without a label are not asked.', 'bench/bridge.py',
            '.drop_nulls("right")', '.fill_null(0.0)',
            ('tests/bench/test_bridge.py::test_groups_and_labels_are_told_apart',)),
        Mutant(
            'Queries of another space are refused.', 'featstore/store/pairs.py',
            '            self.require_same_space(rows, what="Rows and their queries")',
            '            pass',
            ('tests/bench/test_derive.py::test_an_adapter_of_a_bridge_makes_no_rows_of_the_new_encoder',)),
        Mutant(
            'A dataset of others unpacks to no more than its size allows.', 'featstore/interop/files.py',
            '        left -= batch.nbytes', '        left -= 0',
            ('tests/featstore/interop/test_roundtrip.py::test_lance_with_its_items',)),
    ),
    "leaks": (
        Mutant(
            'Centred rows with fewer rows than columns tell which was left out.',
            'fitters/select/left_out.py', '    values[-1] = np.inf', '    values[-1] = values[-2]',
            ('tests/fitters/test_select.py::test_rows_that_span_their_columns_are_about_the_mean_of_the_others',)),
        Mutant(
            'A fit without a name is about the mean of the other rows.',
            'fitters/select/left_out.py', '    if len(a) > a.shape[1]:',
            '    if len(a) > 0:',
            ('tests/fitters/test_select.py::test_centred_rows_must_not_leak_through_their_sum',),
            quick=True),
        Mutant(
            'Classes of one name are left out together.', 'fitters/select/left_out.py',
            '    codes = np.unique(groups, return_inverse=True)[1]\n    if not codes.any():',
            '    codes = np.arange(len(groups))\n    if not codes.any():',
            ('tests/fitters/test_select.py::test_left_out_predictions_are_those_of_refitting',)),
        Mutant(
            "A kernel fit without a name does not see the name's other rows.",
            'fitters/solvers.py', 'x[part] = np.linalg.solve(left, scaled[part])',
            'x[part] = scaled[part] * (-1.0 if self.dual else 1.0)',
            ('tests/fitters/test_kernel_ridge.py::test_left_out_predictions_are_those_of_refitting',)
        ),
        Mutant(
            'The same, for the kernels that controls share.', 'fitters/select/left_out.py',
            'np.fill_diagonal(made, 0.0)', 'np.fill_diagonal(made, made.diagonal())',
            ('tests/fitters/test_kernel_ridge.py::test_in_float32_the_scores_of_a_control_are_those_of_float64',)
        ),
        Mutant(
            'What is left out in closed form is left out.', 'fitters/solvers.py',
            'x: Matrix = -scaled / own if self.dual else scaled / (1 - own)',
            'x: Matrix = -scaled if self.dual else scaled',
            ('tests/fitters/test_select.py::test_left_out_predictions_are_those_of_refitting',)),
        Mutant(
            'What is left out has no part in its prediction.', 'fitters/solvers.py',
            '        own = -_products(x, self.rows)\n', '        own = 0.9 * -_products(x, self.rows)\n',
            ('tests/fitters/test_select.py::test_left_out_predictions_are_those_of_refitting',)),
        Mutant(
            'Pairs of one group are in one fold.', 'fitters/select/grid.py',
            'labels, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)',
            'labels, codes, sizes = np.unique(np.arange(len(groups)), return_inverse=True, return_counts=True)',
            ('tests/fitters/test_select.py::test_folds_keep_groups_whole_and_none_is_empty',)),
        Mutant(
            'A fold is not fitted on the pairs that it holds out.', 'fitters/select/held_out.py',
            'training = real.take(folds != fold)', 'training = real',
            ('tests/fitters/test_select.py::test_the_curve_is_what_refitting_gives',)),
        Mutant(
            'The same, where the error decides.', 'fitters/select/held_out.py',
            'rest = [merge_pooled(*(f for f in folds if f is not held)) for held in folds]',
            'rest = [merge_pooled(*folds) for held in folds]',
            ('tests/fitters/test_choice.py::test_the_error_from_moments_is_that_of_refitting_on_rows',)
        ),
        Mutant(
            'The same, where a method is fitted again.', 'fitters/select/held_out.py',
            'self.real.take(self.folds != fold))', 'self.real)',
            ('tests/fitters/test_relative_choice.py::test_what_is_fitted_without_a_fold_knows_none_of_its_pairs',)
        ),
        Mutant(
            'The same, for kernels.', 'fitters/select/noise.py',
            'spectrum.left_out(noise, self.parts)', 'spectrum.left_out(noise)',
            ('tests/fitters/test_kernel_mixing.py::test_the_surface_is_that_of_refitting_every_fold',)
        ),
        Mutant(
            'The same, for landmarks: a class is left out with all classes of its name.',
            'fitters/select/left_out.py', 'known = np.flatnonzero(np.isin(groups, groups[spread]))',
            'known = spread',
            ('tests/fitters/test_kernel_ridge.py::test_from_landmarks_the_surface_is_that_of_refitting_on_their_features',)
        ),
        Mutant(
            'Prototypes are centred by their own mean, not by that of the images.',
            'fitters/sources.py',
            'head = SideTransform.fit(rows, label="prototypes", blocks=blocks)', 'head = image',
            ('tests/fitters/test_recipe.py::test_final_fit_and_centring_by_hand',)),
        Mutant(
            'Two models are not one for lack of a name.', 'bench/corpus.py',
            '(pair is not None and pair == text.get("pair"))', '(pair == text.get("pair"))',
            ('tests/bench/test_task_runs.py::test_two_spaces_as_they_are_are_not_compared',)),
        Mutant(
            'A few-shot learner chooses by shots that it was not fitted on.',
            'fitters/few_shot/probes.py', '% n_folds\n', '* 0\n',
            ('tests/fitters/few_shot/test_gda.py::test_rows_of_a_class_lie_in_different_folds',)),
    ),
    "choices": (
        Mutant(
            'A grid widens where its best point lies at its end.', 'fitters/select/grid.py',
            'if axis.searched and at == len(axis.values) - 1:',
            'if axis.searched and at == len(axis.values):',
            ('tests/fitters/test_grid.py::test_the_grid_widens_until_the_best_is_inside',)),
        Mutant(
            'A control chooses on the grid that its head explored.', 'fitters/select/grid.py',
            'return replace(self, lowest=self.values[0], highest=self.values[-1])', 'return self',
            ('tests/bench/test_fits.py::test_a_control_does_not_follow_its_noise_off_the_grid',)),
        Mutant(
            'A penalty is relative to the mean square of the rows.', 'fitters/solvers.py',
            'return penalty * float(np.trace(gram)) / len(gram)',
            'return penalty * float(np.trace(gram))',
            ('tests/fitters/test_solvers.py::test_relative_penalty_is_the_mean_squared_column',)),
        Mutant(
            'What is kept is kept by all arguments.', 'fitters/kept.py',
            'key = function, *map(_part, args), *named',
            'key = function, *map(_part, args[:2]), *named',
            ('tests/bench/test_grid.py::test_runs_in_any_order_give_what_each_gives_alone',)),
        Mutant(
            'What is kept is kept by its options too.', 'fitters/kept.py',
            'key = function, *map(_part, args), *named', 'key = function, *map(_part, args)',
            ('tests/bench/test_grid.py::test_runs_in_any_order_give_what_each_gives_alone',)),
        Mutant(
            'A caption weighs as its image has few or many.', 'bench/fits.py',
            '        weight=1.0 / counts[owners],', '        weight=None,',
            ('tests/bench/test_fits.py::test_captions_of_an_image_share_its_mass',)),
        Mutant(
            'CSLS corrects for hubs of the gallery.', 'fitters/scorers.py',
            'of_gallery = _mean_of_best(gallery, queries, k, block_scores)',
            'of_gallery = np.zeros(gallery.shape[0])',
            ('tests/fitters/test_scorers.py::test_csls_is_its_formula',)),
    ),
    "derangement": (
        Mutant(
            'No name keeps a row of its own group when names are shuffled.',
            'fitters/prototypes.py', 'owner[np.roll(order, -largest)] = order',
            'owner[np.roll(order, -1)] = order',
            ('tests/fitters/test_controls.py::test_shuffled_permutes_names_out_of_their_group',)),
        Mutant(
            'Names are not shuffled where some row would keep its own.', 'fitters/prototypes.py',
            '    if 2 * largest > pairs.n:', '    if largest > pairs.n:',
            ('tests/fitters/test_controls.py::test_shuffled_needs_other_names_to_give',)),
        Mutant(
            'Shuffled rows keep their weights.', 'fitters/prototypes.py',
            'weight = None if pairs.weight is None else pairs.weight[owner]',
            'weight = pairs.weight',
            ('tests/fitters/test_controls.py::test_a_control_is_drawn_by_its_generator_and_keeps_the_form',)
        ),
        Mutant(
            "Random rows are as long as the head's.", 'fitters/prototypes.py',
            'drawn *= norms / np.linalg.norm(drawn, axis=1, keepdims=True)', 'drawn *= 1.0',
            ('tests/fitters/test_controls.py::test_random_keeps_each_norm_and_no_direction',)),
        Mutant(
            "Random rows have the head's covariance where that is asked for.",
            'fitters/prototypes.py', 'root = centred / np.sqrt(max(n - 1, 1))',
            'root = centred / np.sqrt(n * 2)',
            ('tests/fitters/test_controls.py::test_random_cov_keeps_mean_and_covariance',)),
    ),
    "resume": (
        Mutant(
            'A finished run is not made again.', 'bench/execution.py',
            'if run.run_id not in have]', 'if run.run_id]',
            ('tests/bench/test_execution.py::test_finished_runs_are_skipped_and_damaged_ones_redone',)
        ),
        Mutant(
            'A run counts as finished only with its ranks beside it.', 'bench/results.py',
            'if path.stem == _name_of(ids) and (ranks / path.name).is_file():',
            'if path.stem == _name_of(ids):',
            ('tests/bench/test_results.py::test_a_damaged_run_counts_as_not_finished',)),
        Mutant(
            'A run is of the revision that it was planned for.', 'bench/corpus.py',
            '    if view.revision_id != revision:', '    if not view.revision_id:',
            ('tests/bench/test_corpus.py::test_a_run_planned_for_another_revision_is_refused',)),
        Mutant(
            'Where a seed changes a run, it changes its id.', 'bench/runs.py',
            '_NO_RESULT = ("on_epoch", "device")',
            '_NO_RESULT = ("on_epoch", "device", "penalty")',
            ('tests/bench/test_runs.py::test_the_id_is_the_hash_of_what_is_not_at_its_default',)),
        Mutant(
            'What was staged under another plan is dropped.', 'featstore/store/staging.py',
            'if head.get("plan") != fresh["plan"]:', 'if not head.get("plan"):',
            ('tests/featstore/store/test_writer.py::test_another_plan_drops_what_is_staged',),
            quick=True),
        Mutant(
            'A staged block counts only if its bytes are those of its hash.',
            'featstore/store/staging.py',
            'if one.fits(read_block(block))}', 'if read_block(block) is not None}',
            ('tests/featstore/store/test_writer.py::test_a_flipped_staged_block_is_done_again',)),
        Mutant(
            'A part of another process is taken only if it fits.', 'featstore/store/staging.py',
            '        if record.fits(data):', '        if data is not None:',
            ('tests/featstore/store/test_parts.py::test_a_flipped_block_of_a_part_is_done_again',)),
        Mutant(
            'Stored rows stay as they are where failed ones are tried again.',
            'featstore/store/writer.py', 'np.where(kept[:, None], self._base.read(block), data)',
            'np.where(kept[:, None], data, data)',
            ('tests/featstore/store/test_revisions.py::test_failed_rows_stay_failed_or_are_tried_again',)
        ),
        Mutant(
            'A picture that was withdrawn is not tried again.', 'featstore/store/staging.py',
            'if reason == WITHDRAWN}', 'if not reason}',
            ('tests/featstore/store/test_withdrawal.py::test_neither_a_tag_nor_a_retry_nor_an_extension_nor_a_compaction_brings_it_back',)),
        Mutant(
            'A failed picture that is withdrawn stays out, too.', 'featstore/store/gc.py',
            'failures(str(key)).filter(reason=WITHDRAWN)', 'failures(str(key))',
            ('tests/featstore/store/test_withdrawal.py::test_neither_a_tag_nor_a_retry_nor_an_extension_nor_a_compaction_brings_it_back',)),
        Mutant(
            'The thumbnail of a picture that was withdrawn goes.', 'featstore/store/tables.py',
            'every.keys() - gone', 'every.keys()',
            ('tests/featstore/store/test_withdrawal.py::test_neither_a_tag_nor_a_retry_nor_an_extension_nor_a_compaction_brings_it_back',)),
        Mutant(
            'A group of rows that may hold a value is read.', 'featstore/store/parquet_guard.py',
            'any(low <= text', 'any(low < text',
            ('tests/featstore/store/test_files.py::test_groups_are_left_out_that_hold_none_of_the_values',)),
        Mutant(
            'The chunks that a filter reads are compared with the commit.',
            'featstore/store/tables.py', 'if sha256_hex(view[chunk.place]) != digest:', 'if not view:',
            ('tests/featstore/store/test_files.py::test_a_flipped_byte_is_found_with_its_column_and_no_other',)),
        Mutant(
            'A set is not extended to items of another content.', 'featstore/store/staging.py',
            'columns = ["content_sha256"]', 'columns = list[str]()',
            ('tests/featstore/store/test_revisions.py::test_what_adds_nothing_is_refused',)),
    ),
    "publication": (
        Mutant(
            'Rows of a run are written after its ranks.', 'bench/results.py',
            '(("ranks", ranks), ("sums", sums_of(ranks)), ("runs", rows))',
            '(("runs", rows), ("ranks", ranks), ("sums", sums_of(ranks)))',
            ('tests/bench/test_results.py::test_a_folder_that_cannot_be_written_leaves_nothing',)),
        Mutant(
            'What the log names is durable before the log is.', 'featstore/store/writer.py',
            'rely_on_log()\n    claim.sync()\n', 'rely_on_log()\n',
            ('tests/faults/test_every_call.py::test_no_log_is_written_before_all_that_it_names_is_durable',)
        ),
        Mutant(
            'A log that lists another revision than the one that was extended is not replaced.',
            'featstore/store/writer.py', 'not in (after, commit.digest)', 'in ()',
            ('tests/featstore/store/test_log.py::test_a_revision_that_another_writer_published_stays',), quick=True),
        Mutant(
            'A file is durable before it takes its name.', 'featstore/durable.py',
            '            if synced:\n                os.fsync(file.fileno())',
            '            if not synced:\n                os.fsync(file.fileno())',
            ('tests/faults/test_every_call.py::test_no_log_is_written_before_all_that_it_names_is_durable',)
        ),
        Mutant(
            'A writer that lost its claim publishes nothing.', 'featstore/store/lock.py',
            'return None if (self.folder / _CLAIM).exists() else self.lost()', 'return None',
            ('tests/faults/test_claims.py::test_a_stopped_writer_cannot_publish',)),
        Mutant(
            'Who takes over from another machine works on copies.', 'featstore/store/lock.py',
            'return strange or record.get("boot", boot_id()) != boot_id()', 'return strange',
            ('tests/faults/test_claims.py::test_a_foreign_claim_is_respected_while_its_lock_holds_and_continued_on_a_copy',)),
        Mutant(
            'A lock that was removed is none.', 'featstore/store/lock.py',
            'yield held and _is_at(handle, path)', 'yield held',
            ('tests/faults/test_claims.py::test_a_lock_that_is_removed_while_it_is_looked_at_is_no_error',)
        ),
        Mutant(
            'Nobody writes a set that another process writes.', 'featstore/store/lock.py',
            'if decided and (current is None or _is_dead(current)):', 'if decided:',
            ('tests/featstore/store/test_writer.py::test_a_second_writer_is_refused_and_told_who_writes',), quick=True),
        Mutant(
            'A table that a commit names is not litter.', 'featstore/store/gc.py',
            '        if not all(files):', '        if not files:',
            ('tests/featstore/store/test_gc.py::test_items_of_old_commits_and_of_damaged_sets_stay',)
        ),
        Mutant(
            'Rows that are joined are those of the commit.', 'featstore/store/writer.py',
            'CheckedRows(open_rows(directory, layout), directory=directory, commit=commit)',
            'open_rows(directory, layout)',
            ('tests/featstore/store/test_revisions.py::test_damage_is_not_joined',)),
        Mutant(
            'A set whose parts are written as one is at the same revision.', 'featstore/store/writer.py',
            'history=commit.revisions,', 'history=commit.history,',
            ('tests/featstore/store/test_revisions.py::test_a_compact_set_is_one_part_with_the_same_revisions',)
        ),
        Mutant(
            'Who holds a view reads on where its parts were joined.', 'featstore/store/store.py',
            'in (None, info.commit.digest):', 'in (info.commit.digest, self.log.sets[str(info.key)]):',
            ('tests/featstore/store/test_revisions.py::test_a_compact_set_is_one_part_with_the_same_revisions',)
        ),
        Mutant(
            'Small parts are joined before there are many.', 'featstore/store/layout.py',
            'if first - start < JOINED:', 'if first - start <= JOINED:',
            ('tests/featstore/store/test_revisions.py::test_many_appends_leave_few_parts',)),
        Mutant(
            'Rows that came out otherwise are in no earlier revision.', 'featstore/store/staging.py',
            'if one.n <= readable', 'if one.n',
            ('tests/featstore/extraction/test_repair.py::test_an_earlier_revision_that_is_still_stored_stays',)),
        Mutant(
            'What is younger than the grace is no litter.', 'featstore/store/gc.py',
            'and _newest(path) <= self._before', '',
            ('tests/featstore/store/test_gc.py::test_litter_goes_and_nothing_else',)),
    ),
    "verification": (
        Mutant(
            'A block that differs from its commit is blamed.', 'featstore/store/verify.py',
            'self._blame(one.path, "; ".join(wrong))', 'self.known.add(one.path)',
            ('tests/featstore/store/test_verify.py::test_every_flipped_byte_is_named',)),
        Mutant(
            'So is a small file, or an item table.', 'featstore/store/listing.py',
            'if same_file(path, self.facts):', 'if path:',
            ('tests/featstore/store/test_verify.py::test_every_flipped_byte_is_named',)),
        Mutant(
            'A file that another publisher may have put is not replaced.',
            'featstore/share/copy.py',
            'elif one.path in there or not objects.create(one.path, data):',
            'elif objects.put(one.path, data):  # type: ignore[func-returns-value]',
            (('tests/featstore/remote/test_buckets.py'
             '::test_of_two_publishers_of_a_first_revision_one_is_whole'),)),
        Mutant(
            'A set in part is not copied into memory.', 'featstore/remote/cache.py',
            '        whole = bool(have.all())', '        whole = True',
            (('tests/featstore/remote/test_reading.py'
             '::test_files_that_share_pages_are_read_in_part_and_whole'),)),
        Mutant(
            'So is a log that is not written as a writer writes it.', 'featstore/store/verify.py',
            'if not self._is_file(LOG, log.data()):', 'if log is None:',
            ('tests/featstore/store/test_verify.py::test_every_truncation_and_growth_is_named',), quick=True),
        Mutant(
            'Thumbnails have the hash that their name says.', 'featstore/store/verify.py',
            'if not file_facts(self.root / path)["sha256"].startswith(digest):', 'if not digest:',
            ('tests/featstore/store/test_verify.py::test_every_flipped_byte_is_named',)),
        Mutant(
            "A shard's index is that of its blocks.", 'featstore/store/listing.py',
            '    if found[:-4] != index:', '    if len(found[:-4]) != len(index):',
            ('tests/featstore/store/test_verify.py::test_every_flipped_byte_is_named',)),
        Mutant(
            'A file is compared by its bytes, not by its length.', 'featstore/store/files.py',
            'return size == facts["bytes"] and _facts(file, size) == dict(facts)',
            'return bool(size == facts["bytes"])',
            ('tests/featstore/store/test_verify.py::test_every_flipped_byte_is_named',)),
        Mutant(
            'A signature is of the key that is asked for.', 'featstore/store/log.py',
            '    if signature.public_key != wanted:', '    if not signature.public_key:',
            ('tests/featstore/store/test_signature.py::test_another_key_is_told',)),
        Mutant(
            'An earlier signed state does not come back.', 'featstore/store/log.py',
            '    if signature.counter < max(at_least, seen):',
            '    if signature.counter < at_least:',
            ('tests/featstore/store/test_signature.py::test_a_whole_state_put_back_is_told_where_a_later_one_was_seen',)
        ),
        Mutant(
            'An encoder that gives other golden vectors extends no set.',
            'featstore/extraction/opening.py',
            '    if cosine is not None and cosine < GOLDEN_COSINE:',
            '    if cosine is not None and cosine < -GOLDEN_COSINE:',
            ('tests/featstore/extraction/test_job.py::test_an_encoder_that_changed_under_its_name_cannot_extend',)
        ),
        Mutant(
            'A head whose rows are shifted against its names is refused.',
            'featstore/extraction/heads.py', '        if best != 0:',
            '        if best is None:',
            ('tests/featstore/extraction/test_row_order.py::test_wrong_orders_of_the_names_do_not_agree',)
        ),
        Mutant(
            'A copy of a dataset has as many images as are known.',
            'data_manifests/copies.py', '        if n != known:',
            '        if n > known:',
            ('tests/data_manifests/test_copies.py::test_a_copy_that_lacks_images_is_told_item_by_item',)
        ),
        Mutant(
            'Images of a copy are of its classes.', 'data_manifests/copies.py',
            '        if strange:', '        if False:',
            ('tests/data_manifests/test_copies.py::test_a_folder_that_is_no_class_is_named',)),
        Mutant(
            'No value that overflows is stored.', 'featstore/store/casting.py',
            '        bad = ~held & ~skipped', '        bad = ~held & skipped',
            ('tests/featstore/store/test_dtypes.py::test_what_a_dtype_cannot_hold_is_an_error',)),
    ),
    "cache": (
        Mutant(
            'A block is there only if its whole mark is.', 'featstore/remote/cache.py',
            '(self._marks(descriptor) == self._right).all(axis=1)',
            '(self._marks(descriptor) == self._right).any(axis=1)',
            ('tests/featstore/remote/test_reading.py::test_no_mark_of_another_start_is_believed',)),
        Mutant(
            'A mark of before a restart counts for nothing until the bytes are hashed.',
            'featstore/remote/cache.py', '        start = boot_id()', '        start = ""',
            ('tests/featstore/remote/test_reading.py::test_marks_of_an_earlier_start_are_not_believed',)
        ),
        Mutant(
            'Bytes of before a restart are hashed.', 'featstore/remote/cache.py',
            '            if found == commit.blocks[self.blocks[index]]:', '            if found:',
            ('tests/featstore/remote/test_reading.py::test_no_mark_of_another_start_is_believed',)),
        Mutant(
            'No block of a server is used that the commit does not state.',
            'featstore/remote/cache.py',
            'if self._commit.block_hash(found) != stated:\n            rows',
            'if not found:\n            rows',
            ('tests/featstore/remote/test_hostile_servers.py::test_a_lying_server_is_named_with_its_block',)
        ),
        Mutant(
            'A commit of a server has the hash that names it.', 'featstore/store/records.py',
            '    if commit.digest != digest:', '    if not commit.digest:',
            ('tests/featstore/remote/test_hostile_servers.py::test_harm_at_every_request_is_an_error_or_the_right_rows',)
        ),
        Mutant(
            'The least recently used goes first, and nothing that is read.',
            'featstore/remote/cache.py',
            '        return sorted(found, key=lambda entry: -entry.used)',
            '        return sorted(found, key=lambda entry: entry.used)',
            ('tests/featstore/remote/test_reading.py::test_the_least_recently_used_shards_go_first',)
        ),
    ),
    "joins": (
        Mutant(
            'All captions of an image weigh one together.', 'featstore/store/pairs.py',
            '        weight=1.0 / partners[x_rows],', '        weight=1.0 / np.ones(len(x_rows)),',
            ('tests/featstore/store/test_pairs.py::test_captions_pair_as_a_double_loop_says',), quick=True),
        Mutant(
            'Pairs are in the order of x, then of y.', 'featstore/store/tables.py',
            'how="inner").sort("x", "y")', 'how="inner").sort("y", "x")',
            ('tests/featstore/store/test_pairs.py::test_captions_pair_as_a_double_loop_says',)),
        Mutant(
            'Rows of two spaces are not mixed.', 'featstore/store/view.py',
            '        if self.space_id != other.space_id:', '        if not self.space_id:',
            ('tests/featstore/store/test_transforms.py::test_spaces_must_agree',), quick=True),
        Mutant(
            'Class texts are means of unit rows.', 'featstore/labels.py',
            '    data = chosen.normalized().numpy(np.float64)',
            '    data = chosen.numpy(np.float64)',
            ('tests/featstore/store/test_pairs.py::test_by_hand',)),
        Mutant(
            'A class takes the best of its prompts.', 'bench/tasks/ranked.py',
            'order = np.argsort(owner, kind="stable")', 'order = np.arange(len(owner))',
            ('tests/bench/test_zero_shot.py::test_the_best_prompt_of_a_class_is_its_score',)),
        Mutant(
            'Plain names of `headstock` are those of its packages.', 'headstock/__init__.py',
            '        "fitters.jobs": "fit",', '        "fitters.alignment": "fit",',
            ('tests/test_face.py::test_the_twelve_jobs_run_as_they_are_printed',)),
    ),
    "tokenising": (
        Mutant(
            'Padding is masked.', 'featstore/encoders/torch_text.py',
            '            mask[row, : text.length] = 1', '            mask[row] = 1',
            ('tests/featstore/encoders/test_hf_text.py::test_every_pooling_equals_a_direct_forward_without_padding',)
        ),
        Mutant(
            'A text that fills the input was not cut.', 'featstore/encoders/torch_text.py',
            'len(whole) > len(ids)', 'len(whole) >= len(ids)',
            ('tests/featstore/encoders/test_text_tokens.py::test_it_tokenizes_cuts_and_pads_as_transformers_does',)
        ),
        Mutant(
            'A text is cut at the limit of the model.', 'featstore/encoders/torch_text.py',
            '"max_length": self._limit}', '"max_length": self._limit and self._limit + 1}',
            ('tests/featstore/encoders/test_text_tokens.py::test_it_tokenizes_cuts_and_pads_as_transformers_does',)
        ),
    ),
    "pooling": (
        Mutant(
            'Prefix tokens are no patches.', 'featstore/encoders/timm_model.py',
            '    skip = prefix if output.shape[1] == tokens else 0', '    skip = 0',
            ('tests/featstore/encoders/test_timm_pools.py::test_registers_are_no_patches',)),
        Mutant(
            'The last token is the last of the text.', 'featstore/encoders/text_models.py',
            'mask.sum(dim=1) - 1', 'mask.sum(dim=1) * 0 - 1',
            ('tests/featstore/encoders/test_hf_text.py::test_every_pooling_equals_a_direct_forward_without_padding',)
        ),
        Mutant(
            'What is transparent lies over white.', 'featstore/images.py', '(255, 255, 255, 255)',
            '(0, 0, 0, 255)',
            ('tests/featstore/test_images.py::test_alpha_is_composited_over_white',)),
    ),
    "extraction": (
        Mutant(
            'What is blamed is the picture under way.', 'featstore/decoding.py',
            'at = ring.under_way(run.slot) - run.first', 'at = 0',
            ('tests/featstore/test_decoding.py::test_a_bad_picture_costs_itself_and_no_other',)
        ),
        Mutant(
            'A side limits only where every other one is a quarter faster.',
            'featstore/extraction/progress.py', 'APART * rates[slowest]:\n            return f"No',
            'rates[slowest]:\n            return f"No',
            ('tests/featstore/extraction/test_progress.py::test_the_slowest_side_is_named_where_every_other_could_do_a_quarter_more',)
        ),
        Mutant(
            'Layers share a pass only where their batches have the same rows.',
            'featstore/extraction/pipeline.py', '"pass_key", number), tuple(rows)',
            '"pass_key", number), len(rows)',
            ('tests/featstore/extraction/test_layers.py::test_layers_of_which_other_rows_are_asked_do_not_share_a_pass',)
        ),
    ),
    # Each is a race on a GPU, which the cards of tests/gpu/fake_card.py see without one.
    "races": (
        Mutant(
            'The model waits for the copy of its batch.', 'featstore/encoders/runtime.py',
            '                torch.cuda.current_stream(self._device).wait_event(arrived)',
            '                pass',
            ('tests/gpu/test_on_fake_cards.py::test_batches_under_way_do_not_touch_one_another',)),
        Mutant(
            'Pixels are kept until the stream of the model has read them.', 'featstore/encoders/runtime.py',
            '        begun.record_stream(torch.cuda.current_stream(self._device))', '',
            ('tests/gpu/test_on_fake_cards.py::test_batches_under_way_do_not_touch_one_another',)),
        Mutant(
            'Vectors are read once they have arrived.', 'featstore/encoders/runtime.py',
            '                self._arrived.synchronize()', '                pass',
            ('tests/gpu/test_on_fake_cards.py::test_batches_under_way_do_not_touch_one_another',)),
        Mutant(
            'The event of vectors comes after their copy.', 'featstore/encoders/runtime.py',
            '            self._host.copy_(values, non_blocking=True)\n'
            '            # Blocking: the thread that waits for it sleeps, and leaves its core to the decoders.\n'
            '            self._arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]\n'
            '            self._arrived.record(torch.cuda.current_stream(values.device))\n',
            '            self._arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]\n'
            '            self._arrived.record(torch.cuda.current_stream(values.device))\n'
            '            self._host.copy_(values, non_blocking=True)\n',
            ('tests/gpu/test_on_fake_cards.py::test_batches_under_way_do_not_touch_one_another',)),
        Mutant(
            'The event is of the stream that copies.', 'featstore/encoders/runtime.py',
            '        self._here.arrived = self._stream.record_event()',
            '        self._here.arrived = torch.cuda.current_stream(self._device).record_event()',
            ('tests/gpu/test_on_fake_cards.py::test_batches_under_way_do_not_touch_one_another',)),
        Mutant(
            'Each batch has memory of its own on the device.', 'featstore/encoders/runtime.py',
            '            begun = begin()',
            '            fresh = begin()\n'
            '            begun = vars(self).setdefault("kept", torch.empty_like(fresh)).copy_(fresh)',
            ('tests/gpu/test_on_fake_cards.py::test_batches_under_way_do_not_touch_one_another',)),
        Mutant(
            'Vectors of each batch come to memory of their own.', 'featstore/encoders/runtime.py',
            '            self._host = torch.empty(values.shape, dtype=torch.float32, pin_memory=True)',
            '            self._host = torch.empty(values.shape, dtype=torch.float32, pin_memory=True)\n'
            '            if getattr(HostCopy, "kept", self._host).shape != self._host.shape:\n'
            '                del HostCopy.kept\n'
            '            self._host = HostCopy.kept = getattr(HostCopy, "kept", self._host)',
            ('tests/gpu/test_on_fake_cards.py::test_batches_under_way_do_not_touch_one_another',)),
        Mutant(
            'Pictures are stacked where no batch waits to be copied: two buffers in turn are too few.', 'featstore/encoders/runtime.py',
            '        np.stack(batch, out=host.numpy())',
            '        two = vars(self).setdefault("two", [host, torch.empty_like(host).pin_memory()])\n'
            '        two.reverse()\n'
            '        host = host if two[0].shape != host.shape else two[0]\n'
            '        np.stack(batch, out=host.numpy())',
            ('tests/gpu/test_on_fake_cards.py::test_batches_under_way_do_not_touch_one_another',)),
        Mutant(
            'A thread hands on pictures once its own stream has decoded them.', 'featstore/images.py',
            '    stream.synchronize()', '    torch.cuda.current_stream(device).synchronize()',
            ('tests/gpu/test_on_fake_cards.py::test_pictures_are_decoded_before_another_thread_has_them',)),
    ),
}
# fmt: on

#: Those that `make test` judges.
QUICK = tuple(mutant for own in MUTANTS.values() for mutant in own if mutant.quick)
