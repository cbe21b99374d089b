//! Uniform grids per group of columns, plain or with error feedback (GPTQ): the baseline.
