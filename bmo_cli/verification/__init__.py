"""Verification of schemes: convergence certificates, and the audit of hyper-gradients."""
