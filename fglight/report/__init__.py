"""The paper's tables, claims and figures with one's own numbers beside: ``fglight report``.

Reads run directories and nothing else: no module here imports torch, the trainer, models or estimators.
"""
