"""Every error that this package raises on purpose.

    CalibrationError                 the root, a ValueError
    ├── ShapeError                   an array has the wrong dimensions, or two do not fit together
    ├── TooFewRowsError              nothing, or not enough, to compute from
    ├── NonFiniteError               NaN, +inf, or a magnitude that no logit has
    ├── LogitsError                  probabilities where logits belong; a row with nothing to choose from
    ├── ProbabilityError             outside [0, 1], or a row that does not sum to one
    ├── LabelError                   not an integer, out of range, or outside its row's answer set
    │   └── OneClassError            a fit, or a judgement, was asked for on labels of a single class
    ├── WeightError                  negative, non-finite, or all zero
    ├── OptionError                  an argument outside what it allows
    ├── UnsupportedTaskError         regression, multi-label or generation: not what this package does
    ├── ConvergenceError             a fit did not reach its optimum: logits of an absurd scale
    ├── SeenRowsError                a score was asked for on rows that the calibrator was fitted on
    └── DocumentError                JSON that this package did not write, or cannot read

Each message says what is wrong, what is allowed and what to do.
"""

from __future__ import annotations


class CalibrationError(ValueError):
    """Root of every error that this package raises on purpose."""


class ShapeError(CalibrationError):
    """An array has the wrong number of dimensions or does not fit its companions."""


class TooFewRowsError(CalibrationError):
    """There are no rows, or fewer than the computation needs."""


class NonFiniteError(CalibrationError):
    """An array holds NaN, an infinity that means nothing, or an absurd magnitude."""


class LogitsError(CalibrationError):
    """The array is not logits: probabilities, or rows without any option."""


class ProbabilityError(CalibrationError):
    """The array is not probabilities: outside [0, 1] or rows that do not sum to one."""


class LabelError(CalibrationError):
    """A label is not an integer, is out of range, or is outside its row's answer set."""


class OneClassError(LabelError):
    """All labels are of one class, so nothing can be fitted or judged."""


class WeightError(CalibrationError):
    """Weights are negative, non-finite or sum to zero."""


class OptionError(CalibrationError):
    """An argument is outside what the function allows."""


class UnsupportedTaskError(CalibrationError):
    """The data are of a task that this package refuses: regression, multi-label, generation."""


class ConvergenceError(CalibrationError):
    """A fit stopped before its optimum."""


class SeenRowsError(CalibrationError):
    """The rows to be scored are rows that the calibrator was fitted on."""


class DocumentError(CalibrationError):
    """A JSON document is not one that this package wrote, or is of another version."""
