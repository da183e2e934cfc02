use crate::{cli::DemoArgs, output::Output};
pub(crate) fn run(_: &libvfetch::Host, _: &DemoArgs, _: Output) -> anyhow::Result<()> {
    Ok(())
}
