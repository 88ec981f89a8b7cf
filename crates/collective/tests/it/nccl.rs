//! NCCL: conformance of one rank, where there is a device.

#![allow(clippy::print_stderr, reason = "a test that was not run says so")]

#[test]
fn nccl_conforms_on_one_rank() {
    #[cfg(feature = "nccl")]
    match caravan_collective::nccl::group(&caravan_collective::Communicator::alone(), 0) {
        Ok(group) => crate::conformance::conformance(&group),
        Err(error) => {
            let error = error.to_string();
            let what = error.lines().next().unwrap_or_default();
            eprintln!("NOT RUN: nccl_conforms_on_one_rank: {what}");
        }
    }
    #[cfg(not(feature = "nccl"))]
    eprintln!("NOT RUN: nccl_conforms_on_one_rank: the feature `nccl`");
}
