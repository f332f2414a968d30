//! Pods
