"""The only owner of the data folder: its layout, durable writes, intake, jobs, operator controls and views."""
