"""What is served: signatures, host processors, programs, configuration."""
