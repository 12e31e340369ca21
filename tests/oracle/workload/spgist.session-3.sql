VACUUM points; VACUUM texts; VACUUM points; VACUUM texts; VACUUM points; VACUUM texts; VACUUM points; VACUUM texts;
VACUUM points; VACUUM texts; VACUUM points; VACUUM texts; VACUUM points; VACUUM texts; VACUUM points; VACUUM texts;
