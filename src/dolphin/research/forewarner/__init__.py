"""The forewarner: which configurations came to ruin on recorded markets, learned beforehand.

`table` says what is sampled, `sample` draws it, `markets` bootstraps recorded days, `trials` runs and labels,
`train` fits the two models, `artefact` keeps them and answers. The rules for a day's gate are pure and stand
in `dolphin.risk.forewarner` (spec 05, section 3).
"""
