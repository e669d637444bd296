#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tillroll_fuzz::fuzzed::image(data));
