//! Manifests of any bytes: refused, or a store whose layout can be computed. Digests would stop every mutation, so the
//! rules behind them are met by sealing what was parsed anew.

#![no_main]

use libfuzzer_sys::fuzz_target;
use m2cache_rs::config::{Architecture, Encoding};
use m2cache_rs::store::{Manifest, file};
use std::path::Path;

fuzz_target!(|text: &[u8]| {
    let path = Path::new("m2cache.json");
    let _ = Manifest::parse(text, path);
    let Ok(mut manifest) = serde_json::from_slice::<Manifest>(text) else { return };
    if manifest.seal().is_err() {
        return;
    }
    let again = Manifest::parse(serde_json::json!(manifest).to_string().as_bytes(), path);
    assert!(again.is_err() || again.is_ok_and(|m| m == manifest));
    lay_out(&manifest.architecture, &manifest.encoding);
});

fn lay_out(architecture: &Architecture, encoding: &Encoding) {
    for index in [0, architecture.layers] {
        let layout = file(architecture, encoding, index);
        assert_eq!(layout.data_bytes() % 4096, 0);
        assert!(layout.weights(architecture.hidden) < 1 << 53);
    }
}
