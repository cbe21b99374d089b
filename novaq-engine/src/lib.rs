//! novaq-engine
