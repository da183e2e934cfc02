use crate::{cli::BenchArgs, output::Output};
pub(crate) fn run(_: &libvfetch::Host, _: &BenchArgs, _: Output) -> anyhow::Result<()> {
    Ok(())
}
