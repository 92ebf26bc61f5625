"""Floor 1: backends that turn canonical views into counts.

A backend is a module with two functions:

- `unsupported_reason(views)` says in one sentence why it can't take these views, or None.
- `count_views(views)` gives `(counts, faults)`: int64 `(N, K, 4)` holding intersection, pred_cardinality,
  target_cardinality and support of every sample and output, and int64 `(NUM_FAULTS,)`, both on the views' device,
  without waiting for it.
"""
