"""ROS 2 over Zenoh: scans of real robots for missions, and the map of missions for ROS 2."""
