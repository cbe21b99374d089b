//! local-net
