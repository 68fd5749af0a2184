"""Directions that a feature from two prompts is compared with (protocol 4.9), as functions of plain arrays.

x [n, d] are residuals, label [n] is 1 for the positive class; every direction [d] scores the positive class, or the
larger target, higher on its training rows. Only directions are given: intercepts change neither r nor AUC.
"""

from __future__ import annotations

import warnings

import numpy as np


def unit(v: np.ndarray) -> np.ndarray:
    """v [..., d] at length one (float64); a zero vector stays zero."""
    v = np.asarray(v, np.float64)
    length = np.linalg.norm(v, axis=-1, keepdims=True)
    return v / np.where(length > 0, length, 1.0)


def linear(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least squares with an intercept of y [n] on x [n, d] -> [d]; minimum norm where rows are fewer than d."""
    from sklearn.linear_model import LinearRegression

    return LinearRegression().fit(x, y).coef_


def logistic(x: np.ndarray, label: np.ndarray, published: bool) -> np.ndarray:
    """Logistic regression on labels -> [d], coefficients of the raw residual.

    As published: scikit-learn's defaults, which stop after 100 iterations (trap T19). Corrected: features are
    standardised and the solver is given the iterations it needs.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if published:
        with warnings.catch_warnings():
            # Stopping early is what is reproduced.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return LogisticRegression(max_iter=100).fit(x, label).coef_[0]
    scaler = StandardScaler().fit(x)
    fitted = LogisticRegression(max_iter=10_000).fit(scaler.transform(x), label)
    return fitted.coef_[0] / scaler.scale_


def mean_difference(x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Mean of the positive rows less mean of the others -> [d]."""
    positive = np.asarray(label, bool)
    return x[positive].mean(0) - x[~positive].mean(0)


def leace(x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """What LEACE reads in order to erase the class -> [d]: the one row of the eraser's `proj_right`.

    An eraser takes `proj_left (proj_right . (x - mean))` off x; `proj_right` is the score that is removed, while
    `proj_left`, proportional to the mean difference, is where it is removed. For two classes that row is, up to its
    arbitrary sign and length, the solution of sigma_xx v = sigma_xz with the library's shrunk covariance, which
    costs no eigenvectors and has the sign of the mean difference.
    """
    import torch
    from concept_erasure import LeaceFitter
    from scipy.linalg import solve

    z = torch.from_numpy(np.asarray(label, np.float64))
    fitter = LeaceFitter.fit(torch.from_numpy(np.array(x, np.float64)), z)
    return solve(fitter.sigma_xx.numpy(), fitter.sigma_xz.numpy()[:, 0], assume_a="pos")
