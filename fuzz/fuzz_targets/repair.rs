#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| wechat_store_gateway_fuzz::repair(input));
