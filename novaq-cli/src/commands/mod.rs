//! One file per subcommand, each with `Args` (what can be typed) and `run(Args) -> anyhow::Result<()>`.
