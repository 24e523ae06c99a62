"""What both services import, or what defines bytes that cross the shared folder."""
