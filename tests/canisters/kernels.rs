//! The kernels inside a canister give the bits of the portable reference, and of the native ones.

use kernel_canister::{Report, compare};
use ohms_tests::network::{Network, stranger};
use ohms_tests::wasm::Canister;

#[test]
fn kernels_agree_inside_a_canister() {
    let network = Network::new();
    let canister = network.install(Canister::Kernels, ());
    for seed in 0..4u64 {
        let inside: Result<Report, String> = network.update(stranger(), canister, "compare", (seed, 12u32));
        let (inside, native) = (inside.unwrap(), compare(seed, 12).unwrap());
        assert_eq!(inside.backends, ["Scalar", "Simd128"]);
        assert_eq!(inside.fingerprint, native.fingerprint, "Wasm and native results differ, seed {seed}");
    }
}
