"""Fixed C++ headers and project files of the HLS backend."""
