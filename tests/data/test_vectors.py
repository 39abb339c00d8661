"""Vectors in place of images."""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_diabetes

from fglight.data.vectors import Diabetes


def test_measurements_and_labels_are_standardised_over_the_training_patients():
    train, test = Diabetes().load(Path())
    raw = load_diabetes(return_X_y=True, scaled=False)
    for part, (ours, others) in enumerate(zip(train, test)):
        torch.testing.assert_close(ours.mean(0), torch.zeros(ours.shape[1]), rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.std(0), torch.ones(ours.shape[1]), rtol=0, atol=1e-5)
        assert (others.mean(0).abs() > 1e-3).any()  # theirs are not looked at
        # One shift and one scale for all patients: in order of size, they lie on a line with what was measured.
        together = np.sort(torch.cat([ours, others]).double().numpy(), 0)
        for mine, measured in zip(together.T, np.sort(raw[part].reshape(len(together), -1), 0).T):
            slope, offset = np.polyfit(measured, mine, 1)
            np.testing.assert_allclose(mine, slope * measured + offset, atol=1e-4)
