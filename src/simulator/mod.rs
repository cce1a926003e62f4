//! A small WeChat beside us.
