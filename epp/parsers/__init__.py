"""Request body to InferenceRequest, one API a module. Pure; bad input is a BadRequest, never anything else."""
