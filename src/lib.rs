pub mod wire;
pub mod x {}
