//! A small WeChat beside us.

mod districts;
mod places;
