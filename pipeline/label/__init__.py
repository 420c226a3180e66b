"""The pipeline and its stages as models of a MONAI Label server; needs the extra `[label]`.

Nothing here imports MONAI Label until a server starts, and nothing else of the package imports this.
`monaibundle` and `exchange` never do: the bundles bring them along.
"""
