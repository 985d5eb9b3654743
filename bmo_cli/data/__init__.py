"""Photographs, blur kernels and their splits."""
