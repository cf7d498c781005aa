//! Tests of the ways to balance.
