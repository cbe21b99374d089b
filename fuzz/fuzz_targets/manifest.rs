//! Manifests from anybody: refused with a reason, or whole, in canonical form and with one id.

#![no_main]

use libfuzzer_sys::fuzz_target;
use novaq_engine::artifact::Manifest;

fuzz_target!(|bytes: &[u8]| {
    let Ok(manifest) = Manifest::parse(bytes) else { return };
    assert_eq!(manifest.to_bytes().expect("it was read"), bytes, "there is one form of a manifest");
    manifest.validate().expect("what is read is valid");
    manifest.id().expect("it has an id");
    let _ = manifest.check_tensors();
});
