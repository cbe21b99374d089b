//! novaq-cli
