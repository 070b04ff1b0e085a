"""HLS C++ for FPGAs: a project of tasks and streams, and its C simulation."""
