"""What operators ask of requests: which matter more than others, and which model they are sent on to. Pure."""
