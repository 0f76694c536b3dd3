#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chat_svc_fuzz::session::run(data));
