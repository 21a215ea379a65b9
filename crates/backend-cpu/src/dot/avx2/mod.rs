//! x
use super::Kernel;
pub(super) fn is_available() -> bool { is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") }
pub(super) fn kernel(_f: quant::Format) -> Option<Kernel> { None }
